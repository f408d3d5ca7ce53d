# The start bundle of the Salt master on this host: stored now if the last one is too old, and daily.
include:
  - backup.restic

the start bundle is stored:
  openhim_bundle.stored:
    - max_age: {{ pillar['openhim']['backup']['bundle'].get('max_age_seconds', 86400) }}
    - require:
      - pkg: restic is installed

the start bundle is stored every day:
  schedule.present:
    - name: openhim start bundle
    - function: openhim_bundle.store
    - seconds: 86400
    - splay: 600
    - maxrunning: 1
    - require:
      - pkg: restic is installed
