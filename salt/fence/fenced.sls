# This host cannot write any more:
#   salt -L north-db1,north-core state.apply fence.fenced pillar='{"fence": {"epoch": 1, "by": "Ada",
#     "reason": "north burns"}}'
{%- set order = pillar['fence'] %}
this host cannot write:
  openhim_fence.fenced:
    - epoch: {{ order['epoch'] | json }}
    - by: {{ order['by'] | json }}
    - reason: {{ order['reason'] | json }}
