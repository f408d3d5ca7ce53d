"""Describes an OpenHIM stack as desired state and recovers it from disaster."""
