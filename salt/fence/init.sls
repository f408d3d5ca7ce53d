# After a boot mongod and OpenHIM start only under the current epoch. Before what is behind it.
{%- if (pillar['openhim'].get('gate') or {}).get('enabled') %}
mongod and OpenHIM are behind a gate:
  openhim_fence.gated:
    - require:
      - openhim: the pillar is allowed

the gate is open under the current epoch:
  openhim_fence.admitted:
    - require:
      - openhim_fence: mongod and OpenHIM are behind a gate
{%- endif %}
