# The member on this host becomes the primary by forced reconfiguration. Only orch.failover uses it.
{%- set request = pillar['failover'] %}
include:
  - openhim.checked

{%- for instance in salt['mongodb_replset.instances']() %}
the set {{ instance.set }} has its primary here:
  mongodb_replset.promoted:
    - name: {{ instance.set }}
    - confirm: {{ request['confirm'] | json }}
    - reason: {{ request['reason'] | json }}
    - declared_by: {{ request['declared_by'] | json }}
    - require:
      - openhim: the pillar is allowed
{%- endfor %}
