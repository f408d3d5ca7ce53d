# The fence of this host is lifted; nothing is started. Takes the same pillar as fence.fenced.
{%- set order = pillar['fence'] %}
this host is not fenced:
  openhim_fence.unfenced:
    - epoch: {{ order['epoch'] | json }}
    - by: {{ order['by'] | json }}
    - reason: {{ order['reason'] | json }}
