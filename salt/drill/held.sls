# A functional drill, now.
{%- set request = pillar['drill'] %}
include:
  - openhim.checked

a drill is passed:
  openhim_drill.passed:
    - by: {{ request.declared_by | json }}
    - point: {{ request.get('point', 'latest') | json }}
    - repository: {{ request.get('repository') | json }}
    - require:
      - openhim: the pillar is allowed
