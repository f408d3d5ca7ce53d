# The data that a restore is about to replace; orch.restore stops OpenHIM before.
{%- set request = pillar['restore'] %}
include:
  - openhim.checked

the present data is kept aside:
  openhim_backup.kept_aside:
    - why: {{ ('aside, before the restore of ' ~ (request.to_time or request.point) ~ ': ' ~ request.reason) | json }}
    - by: {{ request.declared_by | json }}
    - require:
      - openhim: the pillar is allowed
