# OpenHIM moves to another site, after its own is lost.
#
#   salt-run state.orchestrate orch.failover pillar='{"failover": {"to_site": "south",
#     "confirm": "<the stack's name>", "declared_by": "<who>", "reason": "<why>",
#     "disrupted_at": "2026-01-31T12:00:00Z", "attest": {"north": "<how it is known to be off>"}}}'
#
# With test=True it tells what it would do and changes nothing. Run again after a crash, it goes on.
{%- from 'orch/afterwards.jinja' import afterwards %}
{%- from 'orch/timeline.jinja' import reached %}
{%- set request = pillar.get('failover', {}) %}
{%- set plan = salt['saltutil.runner']('openhim_dr.failover_plan', kwarg=request) %}
{%- if plan.refusals %}
{%- for reason in plan.refusals %}
{{ ('Refused: ' ~ reason) | json }}:
  test.fail_without_changes: []
{% endfor %}
{%- else %}
{%- set overlay = {'openhim': {'recovery': plan.overlay}, 'failover': request} %}

The decision is on record:
  salt.runner:
    - name: openhim_dr.failover_declare
    - kwarg: {{ dict(request, silent=plan.unseen, planned_within=15) | json }}
    - failhard: true

# While that is seen to, the other sites are closed. Whoever promotes waits for both: Salt itself
# ends nothing when what runs beside fails.
Every host that is left knows it:
  salt.runner:
    - name: openhim_dr.tell
    - kwarg:
        stack: {{ request.confirm | json }}
        hosts: {{ plan.hosts | json }}
        step: every host that is left knows it
    - parallel: true

# What answers of the lost site is fenced; for what does not, there must be another proof.
No other site takes writes:
  salt.runner:
    - name: openhim_dr.secure
    - kwarg: {{ dict(request, verb='failover', silent=plan.unseen) | json }}
    - failhard: true
{{ reached(request.confirm, 'no other site takes writes', beside=true) }}

{%- for set, host in plan.promote.items() %}

The distant member of {{ set }} is the primary:
  salt.state:
    - tgt: {{ host }}
    - sls: mongodb.promoted
    - pillar: {{ dict(overlay, promote=set) | json }}
    - require:
      - salt: Every host that is left knows it
    - failhard: true
{%- endfor %}
{{ reached(request.confirm, 'the primaries are at ' ~ request.to_site, beside=true) }}

OpenHIM serves at {{ request.to_site }}:
  salt.state:
    - tgt: {{ plan.cores | json }}
    - tgt_type: list
    - sls: openhim.serving
    - pillar: {{ overlay | json }}
    - failhard: true
{{ reached(request.confirm, 'OpenHIM runs at ' ~ request.to_site, beside=true) }}

Clients are led to {{ request.to_site }}:
  salt.runner:
    - name: openhim_dr.cut_over
    - kwarg: {stack: {{ request.confirm | json }}, site: {{ request.to_site | json }}, if_declared: true}
    - failhard: true
{%- if plan.leads_clients %}
{{ reached(request.confirm, 'clients are led to ' ~ request.to_site, beside=true) }}
{%- endif %}

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

The failover is done:
  salt.runner:
    - name: openhim_dr.complete
    - kwarg: {stack: {{ request.confirm | json }}}
    - failhard: true

{{ afterwards(plan, overlay) }}
{%- endif %}
