# The start bundle of the Salt master on this host: stored now if the last one will not do.
include:
  - backup.restic

the start bundle is stored:
  openhim_bundle.stored:
    - require:
      - pkg: restic is installed
