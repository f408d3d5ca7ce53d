# A site that was given up is back, and belongs to the stack again: its members catch up and get
# their votes back, its OpenHIM is kept ready.
#
#   salt-run state.orchestrate orch.rejoin pillar='{"rejoin": {"site": "north",
#     "confirm": "<the stack's name>", "declared_by": "<who>", "reason": "<why>", "resync": false}}'
#
# A member with writes that did not survive rejoins with "resync": true only; its data is kept aside.
{%- from 'orch/afterwards.jinja' import afterwards %}
{%- set request = pillar.get('rejoin', {}) %}
{%- set plan = salt['saltutil.runner']('openhim_dr.rejoin_plan', kwarg=request) %}
{%- if plan.refusals %}
{%- for reason in plan.refusals %}
{{ ('Refused: ' ~ reason) | json }}:
  test.fail_without_changes: []
{% endfor %}
{%- else %}
{%- set overlay = {'openhim': {'recovery': plan.overlay}} %}

{%- if plan.lost_by %}

# Before its members join the new history and undo what they have alone.
What {{ request.site }} wrote alone is kept, and in the ledger:
  salt.runner:
    - name: openhim_dr.ledger
    - kwarg: {stack: {{ request.confirm | json }}, epoch: {{ plan.lost_by }}, brief: true}
    - failhard: true
{%- endif %}

{{ request.site }} knows the record, and its services may start:
  salt.runner:
    - name: openhim_dr.rejoin_prepare
    - kwarg: {{ request | json }}
    - failhard: true

# Votes come back one reconfiguration at a time, each when its member has all data.
Every host is as declared, with {{ request.site }}:
  salt.state:
    - tgt: {{ plan.hosts | json }}
    - tgt_type: list
    - highstate: true
    - pillar: {{ overlay | json }}
    - failhard: true

The members of {{ request.site }} have all writes:
  salt.runner:
    - name: openhim_dr.rejoin_finish
    - kwarg: {{ request | json }}
    - failhard: true

{{ afterwards(plan, overlay) }}
{%- endif %}
