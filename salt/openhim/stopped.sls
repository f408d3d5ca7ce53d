# OpenHIM does not run, and does not start with the host: its data is about to be replaced. The next
# highstate, or orch.restore itself, starts it again.
include:
  - openhim.checked

OpenHIM is stopped:
  service.dead:
    - name: {{ salt['openhim.core_settings']().unit }}
    - enable: false
    - require:
      - openhim: the pillar is allowed
