# The stack's data becomes that of a restore point: OpenHIM stops, the data is replaced, OpenHIM serves.
#
#   salt-run state.orchestrate orch.restore pillar='{"restore": {"confirm": "<the stack's name>",
#     "point": "<ID, latest or verified>", "declared_by": "<who>", "reason": "<why>"}}'
#
# With "to_time": "2026-01-31T11:59:59Z" it becomes that of a time, by the archived oplog; "point" may
# be left out then.
#
# What was written since is replaced: take one before, if it may be needed. With
# test=True it tells what it would do and changes nothing.
{%- set request = pillar.get('restore', {}) %}
{%- set plan = salt['saltutil.runner']('openhim_dr.restore_plan', kwarg=request) %}
{%- if plan.refusals %}
{%- for reason in plan.refusals %}
{{ ('Refused: ' ~ reason) | json }}:
  test.fail_without_changes: []
{% endfor %}
{%- else %}
{%- set known = {'restore': dict(request, since=plan.since, point=plan.point)} %}

{#- Asked before OpenHIM stops: what would be refused must cost nobody the service. #}

The data may become that of {{ plan.what }}:
  salt.state:
    - tgt: {{ plan.host }}
    - sls: backup.restored
    - pillar: {{ known | json }}
    - test: true
    - failhard: true

{%- for core in plan.cores %}

OpenHIM on {{ core }} is stopped:
  salt.function:
    - name: service.stop
    - tgt: {{ core }}
    - arg: [openhim-core]
    - expect_minions: true
    - failhard: true
{%- endfor %}

The data is that of {{ plan.what }}:
  salt.state:
    - tgt: {{ plan.host }}
    - sls: backup.restored
    - pillar: {{ known | json }}
    - failhard: true

OpenHIM serves it:
  salt.state:
    - tgt: {{ plan.cores | json }}
    - tgt_type: list
    - sls: openhim.serving
    - failhard: true
{%- endif %}
