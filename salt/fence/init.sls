# After a boot mongod and OpenHIM start only under the current epoch. Before what is behind it.
{%- set roles = salt['openhim.roles']() %}
{%- if (pillar['openhim'].get('gate') or {}).get('enabled') and ('mongodb' in roles or 'core' in roles) %}
mongod and OpenHIM are behind a gate:
  openhim_fence.gated:
    - require:
      - openhim: the pillar is allowed

the gate is open under the current epoch:
  openhim_fence.admitted:
    - require:
      - openhim_fence: mongod and OpenHIM are behind a gate
{%- endif %}
