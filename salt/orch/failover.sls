# OpenHIM moves to another site, after its own is lost.
#
#   salt-run state.orchestrate orch.failover pillar='{"failover": {"to_site": "south",
#     "confirm": "<the stack's name>", "declared_by": "<who>", "reason": "<why>",
#     "disrupted_at": "2026-01-31T12:00:00Z"}}'
#
# With test=True it tells what it would do and changes nothing. Run again after a crash, it goes on.
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
    - kwarg: {{ request | json }}
    - failhard: true


Every host that is left knows it:
  salt.function:
    - name: saltutil.refresh_pillar
    - tgt: {{ plan.hosts | json }}
    - tgt_type: list
    - kwarg: {wait: true}
    - require:
      - salt: The decision is on record
    - failhard: true

{%- for set, host in plan.promote.items() %}

The distant member of {{ set }} is the primary:
  salt.state:
    - tgt: {{ host }}
    - sls: mongodb.promoted
    - pillar: {{ overlay | json }}
    - require:
      - salt: The decision is on record
    - require_in:
      - salt: OpenHIM serves at {{ request.to_site }}
    - failhard: true
{%- endfor %}

OpenHIM serves at {{ request.to_site }}:
  salt.state:
    - tgt: {{ plan.cores | json }}
    - tgt_type: list
    - sls: openhim.serving
    - pillar: {{ overlay | json }}
    - failhard: true

A transaction goes through and is found again:
  salt.runner:
    - name: openhim_dr.failover_conclude
    - kwarg: {stack: {{ request.confirm | json }}}
    - require:
      - salt: OpenHIM serves at {{ request.to_site }}
    - failhard: true

Every host that is left confirms the new reality:
  salt.state:
    - tgt: {{ plan.hosts | json }}
    - tgt_type: list
    - highstate: true
    - pillar: {{ overlay | json }}
    - require:
      - salt: A transaction goes through and is found again
{%- endif %}
