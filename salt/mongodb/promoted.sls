# The member of one set on this host becomes the primary by forced reconfiguration. Only orch.failover
# uses it.
{%- set request = pillar['failover'] %}
include:
  - openhim.checked

the set {{ pillar['promote'] }} has its primary here:
  mongodb_replset.promoted:
    - name: {{ pillar['promote'] }}
    - confirm: {{ request['confirm'] | json }}
    - reason: {{ request['reason'] | json }}
    - declared_by: {{ request['declared_by'] | json }}
    - require:
      - openhim: the pillar is allowed
