# Nothing is left but the repositories, and hosts that are reached by SSH: the stack is made anew at
# another site, with the data of a restore point or of a time.
#
#   salt-run state.orchestrate orch.rebuild pillar='{"rebuild": {"to_site": "west",
#     "confirm": "<the stack's name>", "point": "latest", "declared_by": "<who>", "reason": "<why>",
#     "disrupted_at": "2026-01-31T12:00:00Z",
#     "attest": {"north": "<how it is known to be off>", "south": "<…>"}}}'
#
# With "to_time" it becomes the data of that time, by the archived oplog. With test=True it tells what
# it would do and touches no host. Run again after a crash, it goes on.
{%- from 'orch/afterwards.jinja' import afterwards %}
{%- from 'orch/timeline.jinja' import reached %}
{%- set request = pillar.get('rebuild', {}) %}
{%- set plan = salt['saltutil.runner']('openhim_dr.rebuild_plan', kwarg=request) %}
{%- if plan.refusals %}
{%- for reason in plan.refusals %}
{{ ('Refused: ' ~ reason) | json }}:
  test.fail_without_changes: []
{% endfor %}
{%- elif opts.get('test') %}
{%- for step in plan.steps %}
{{ ('Would: ' ~ step) | json }}:
  test.succeed_with_changes: []
{% endfor %}
{%- else %}

Every host of {{ request.to_site }} has a minion:
  salt.runner:
    - name: openhim_dr.rebuild_reach
    - kwarg: {{ request | json }}
    - failhard: true

The decision is on record:
  salt.runner:
    - name: openhim_dr.rebuild_declare
    - kwarg: {{ request | json }}
    - failhard: true

Every host that is left knows it:
  salt.runner:
    - name: openhim_dr.rebuild_known
    - kwarg: {stack: {{ request.confirm | json }}, hosts: {{ plan.hosts | json }}}
    - failhard: true
{{ reached(request.confirm, 'every host that is left knows it') }}
{%- if plan.let_in_by %}

# Until now the new hosts had no part in the stack: nobody would tell them the time, for instance.
Whoever else serves {{ request.to_site }} lets its hosts in:
  salt.state:
    - tgt: {{ plan.let_in_by | json }}
    - tgt_type: list
    - sls: openhim.neighbours
    - failhard: true
{%- endif %}

{{ request.to_site }} is ready for the data:
  salt.state:
    - tgt: {{ plan.hosts | json }}
    - tgt_type: list
    - sls: openhim.prepared
    - failhard: true
{{ reached(request.confirm, request.to_site ~ ' is ready for the data') }}

The data is that of {{ plan.what }}:
  salt.state:
    - tgt: {{ plan.restored_by }}
    - sls: backup.restored
    - pillar: {{ {'restore': plan.restore} | json }}
    - failhard: true
{{ reached(request.confirm, 'the data is that of ' ~ plan.what) }}

OpenHIM serves it at {{ request.to_site }}:
  salt.state:
    - tgt: {{ plan.hosts | json }}
    - tgt_type: list
    - highstate: true
    - failhard: true
{{ reached(request.confirm, 'OpenHIM runs at ' ~ request.to_site) }}

A transaction goes through and is found again:
  salt.runner:
    - name: openhim_dr.rebuild_conclude
    - kwarg: {stack: {{ request.confirm | json }}}
    - failhard: true

Clients are led to {{ request.to_site }}:
  salt.runner:
    - name: openhim_dr.cut_over
    - kwarg: {stack: {{ request.confirm | json }}, site: {{ request.to_site | json }}, if_declared: true}
    - failhard: true
{%- if plan.leads_clients %}
{{ reached(request.confirm, 'clients are led to ' ~ request.to_site) }}
{%- endif %}

The rebuild is done:
  salt.runner:
    - name: openhim_dr.rebuild_complete
    - kwarg: {stack: {{ request.confirm | json }}}
    - failhard: true

{{ afterwards(plan) }}
{%- endif %}
