# Other hosts of the stack are known here, let in and told the time, and heard where the lease is
# witnessed; nothing else is touched. A host whose pillar has more of them since a recovery needs no
# more than this for them.
include:
  - openhim.checked
  - names
  - clock
  - firewall
  - lease
