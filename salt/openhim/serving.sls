# What a core host needs to take over, and nothing else: orch.failover is in a hurry.
include:
  - openhim.checked
  - fence
  - openhim.core
