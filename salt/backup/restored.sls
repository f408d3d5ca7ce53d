# A restore point in the declared sets, for orch.restore and orch.rebuild: OpenHIM does not run then.
{%- set request = pillar['restore'] %}
include:
  - openhim.checked

the data is that of the restore point:
  openhim_backup.restored:
    - name: {{ request.point | json }}
    - why: {{ request.reason | json }}
    - by: {{ request.declared_by | json }}
    - overwrite: true
    - since: {{ request.since | default(none) | json }}
    - exactly: {{ request.exactly | default(false) | json }}
    - epoch: {{ request.epoch | default(none) | json }}
    - to_time: {{ request.to_time | default(none) | json }}
    - require:
      - openhim: the pillar is allowed
