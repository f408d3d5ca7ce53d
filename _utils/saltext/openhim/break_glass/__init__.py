"""Break-glass access: an account for the emergency that ends by itself.

:mod:`account` decides (pure), :mod:`openhim_user` and :mod:`mongodb_user` make and remove accounts
with what the host itself has on its disks, :mod:`handover` gives the password to one person,
:mod:`timer` sees to the end, and :mod:`cabinet` does it all and writes it down.
"""
