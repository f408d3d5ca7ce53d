# The stack's data becomes that of a restore point: what is there is kept aside, OpenHIM stops, the
# data is replaced, OpenHIM serves and proves it. An epoch of the recovery record says so.
#
#   salt-run state.orchestrate orch.restore pillar='{"restore": {"confirm": "<the stack's name>",
#     "point": "<ID, latest or verified>", "declared_by": "<who>", "reason": "<why>"}}'
#
# With "to_time": "2026-01-31T11:59:59Z" it becomes that of a time, by the archived oplog; "point" may
# be left out then.
#
# With test=True it tells what it would do and changes nothing. Run again after a crash, it goes on.
{%- from 'orch/afterwards.jinja' import afterwards %}
{%- from 'orch/timeline.jinja' import reached %}
{%- set request = pillar.get('restore', {}) %}
{%- set plan = salt['saltutil.runner']('openhim_dr.restore_plan', kwarg=request) %}
{%- if plan.refusals %}
{%- for reason in plan.refusals %}
{{ ('Refused: ' ~ reason) | json }}:
  test.fail_without_changes: []
{% endfor %}
{%- else %}
{%- set known = {'restore': {
      'point': plan.point, 'to_time': plan.to_time, 'epoch': plan.epoch, 'exactly': true,
      'reason': request.reason, 'declared_by': request.declared_by}} %}

What is done:
  test.show_notification:
    - text: {{ plan.words | json }}

{%- if not plan.replaced %}

{#- What fails from here on to the decision costs a moment of service and changes no data. #}

OpenHIM is stopped:
  salt.state:
    - tgt: {{ plan.stop | json }}
    - tgt_type: list
    - sls: openhim.stopped

{%- if plan.keep %}

What is there is kept aside:
  salt.state:
    - tgt: {{ plan.host }}
    - sls: backup.aside
    - pillar: {{ known | json }}
    - require:
      - salt: OpenHIM is stopped
{%- endif %}

The decision is on record:
  salt.runner:
    - name: openhim_dr.restore_declare
    - kwarg: {{ {'request': request, 'plan': plan} | json }}
    - require:
      - salt: {{ 'What is there is kept aside' if plan.keep else 'OpenHIM is stopped' }}

{%- if plan.untouched %}

OpenHIM serves again what there was:
  salt.state:
    - tgt: {{ plan.cores | json }}
    - tgt_type: list
    - sls: openhim.serving
    - onfail:
      - salt: OpenHIM is stopped
{%- if plan.keep %}
      - salt: What is there is kept aside
{%- endif %}
      - salt: The decision is on record
{%- endif %}

Every host knows it:
  salt.runner:
    - name: openhim_dr.tell
    - kwarg: {stack: {{ request.confirm | json }}, hosts: {{ plan.hosts | json }}}
    - failhard: true
    - require:
      - salt: The decision is on record
{{ reached(request.confirm, 'every host knows it') }}

{%- if plan.archiver %}

{#- Not a reason to keep OpenHIM from serving: what was written so far is kept aside. #}

The oplog archive begins a new timeline:
  salt.state:
    - tgt: {{ plan.archiver }}
    - sls: backup.archiving
    - require:
      - salt: Every host knows it
{%- endif %}

The data is that of {{ plan.what }}:
  salt.state:
    - tgt: {{ plan.host }}
    - sls: backup.restored
    - pillar: {{ known | json }}
    - failhard: true
    - require:
      - salt: Every host knows it
{%- endif %}
{{ reached(request.confirm, 'the data is that of ' ~ plan.what) }}

OpenHIM serves it:
  salt.state:
    - tgt: {{ plan.cores | json }}
    - tgt_type: list
    - sls: openhim.serving
    - failhard: true
{{ reached(request.confirm, 'OpenHIM runs on it') }}

A transaction goes through and is found again:
  salt.runner:
    - name: openhim_dr.restore_conclude
    - kwarg: {stack: {{ request.confirm | json }}}
    - failhard: true

Every host confirms the new reality:
  salt.state:
    - tgt: {{ plan.hosts | json }}
    - tgt_type: list
    - highstate: true
    - failhard: true
{{ reached(request.confirm, 'every host has confirmed it') }}

The restore is done:
  salt.runner:
    - name: openhim_dr.restore_complete
    - kwarg: {stack: {{ request.confirm | json }}}
    - failhard: true

{{ afterwards(plan) }}
{%- endif %}
