# restic keeps the repositories.
include:
  - openhim.checked

restic is installed:
  pkg.installed:
    - name: restic
    - require:
      - openhim: the pillar is allowed
