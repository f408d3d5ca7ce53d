# A restore point in the declared sets; orch.restore stops OpenHIM before, and starts it afterwards.
{%- set request = pillar['restore'] %}
include:
  - openhim.checked

the data is that of the restore point:
  openhim_backup.restored:
    - name: {{ request.point | json }}
    - why: {{ request.reason | json }}
    - by: {{ request.declared_by | json }}
    - overwrite: true
    - since: {{ request.since | json }}
    - to_time: {{ request.to_time | default(none) | json }}
    - require:
      - openhim: the pillar is allowed
