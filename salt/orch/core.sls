# OpenHIM alone moves to another host: MongoDB has a primary, and keeps it.
#
#   salt-run state.orchestrate orch.core pillar='{"core": {"to_site": "south",
#     "confirm": "<the stack's name>", "declared_by": "<who>", "reason": "<why>",
#     "disrupted_at": "2026-01-31T12:00:00Z", "attest": {"north": "<how it is known to be off>"}}}'
#
# With test=True it tells what it would do and changes nothing. Run again after a crash, it goes on.
{%- from 'orch/afterwards.jinja' import afterwards %}
{%- from 'orch/timeline.jinja' import reached %}
{%- set request = pillar.get('core', {}) %}
{%- set plan = salt['saltutil.runner']('openhim_dr.core_plan', kwarg=request) %}
{%- if plan.refusals %}
{%- for reason in plan.refusals %}
{{ ('Refused: ' ~ reason) | json }}:
  test.fail_without_changes: []
{% endfor %}
{%- else %}
{%- set overlay = {'openhim': {'recovery': plan.overlay}} if plan.overlay else {} %}

{#- At the active site itself nothing new is real, and so nothing goes on record. #}
{{ 'It is allowed still' if plan.in_place else 'The decision is on record' }}:
  salt.runner:
    - name: openhim_dr.core_declare
    - kwarg: {{ dict(request, silent=plan.unseen) | json }}
    - failhard: true

{%- if plan.overlay %}

Every host that is left knows it:
  salt.runner:
    - name: openhim_dr.tell
    - kwarg: {stack: {{ request.confirm | json }}, hosts: {{ plan.hosts | json }}}
    - failhard: true
{%- endif %}
{%- if not plan.in_place %}
{{ reached(request.confirm, 'every host that is left knows it') }}

# What answers of a site that is given up is fenced; for what does not, there must be another proof.
No other site takes writes:
  salt.runner:
    - name: openhim_dr.secure
    - kwarg: {{ dict(request, verb='core', silent=plan.unseen) | json }}
    - failhard: true
{{ reached(request.confirm, 'no other site takes writes') }}

# Before OpenHIM starts: where every site must have a write, one would wait for those that are lost.
MongoDB counts on those who are left:
  salt.state:
    - tgt: {{ plan.counted | json }}
    - tgt_type: list
    - sls: mongodb.counted
    - pillar: {{ overlay | json }}
    - failhard: true
{{ reached(request.confirm, 'MongoDB counts on those who are left') }}
{%- endif %}

OpenHIM serves at {{ request.to_site }}:
  salt.state:
    - tgt: {{ plan.cores | json }}
    - tgt_type: list
    - sls: openhim.serving
    - pillar: {{ overlay | json }}
    - failhard: true
{%- if not plan.in_place %}
{{ reached(request.confirm, 'OpenHIM runs at ' ~ request.to_site) }}
{%- endif %}

Clients are led to {{ request.to_site }}:
  salt.runner:
    - name: openhim_dr.cut_over
    - kwarg: {stack: {{ request.confirm | json }}, site: {{ request.to_site | json }}, if_declared: true}
    - failhard: true
{%- if plan.leads_clients and not plan.in_place %}
{{ reached(request.confirm, 'clients are led to ' ~ request.to_site) }}
{%- endif %}

{%- if plan.in_place %}

A transaction goes through and is found again:
  salt.function:
    - name: openhim.synthetic
    - tgt: {{ plan.cores | json }}
    - tgt_type: list
    - expect_minions: true
    - failhard: true

Its host confirms it:
  salt.state:
    - tgt: {{ plan.cores | json }}
    - tgt_type: list
    - highstate: true
    - pillar: {{ overlay | json }}
    - failhard: true
{%- else %}

A transaction goes through and is found again:
  salt.runner:
    - name: openhim_dr.conclude
    - kwarg: {stack: {{ request.confirm | json }}}
    - failhard: true

Every host that is left confirms the new reality:
  salt.state:
    - tgt: {{ plan.hosts | json }}
    - tgt_type: list
    - highstate: true
    - pillar: {{ overlay | json }}
    - failhard: true
{{ reached(request.confirm, 'every host that is left has confirmed it') }}

The move of OpenHIM is done:
  salt.runner:
    - name: openhim_dr.complete
    - kwarg: {stack: {{ request.confirm | json }}}
    - failhard: true

{{ afterwards(plan, overlay) }}
{%- endif %}
{%- endif %}
