# The start bundle of the Salt master on this host: stored now if the last one will not do.
include:
  - backup.restic

the start bundle is stored:
  openhim_bundle.stored:
    - max_age: {{ pillar['openhim']['backup']['bundle'].get('max_age_seconds', 86400) }}
    - require:
      - pkg: restic is installed
