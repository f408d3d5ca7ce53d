# A functional drill now: is what was backed up enough to serve again, and how long does it take.
#
#   salt-run state.orchestrate orch.drill pillar='{"drill": {"stack": "<name>", "declared_by": "<who>"}}'
#
# "point" (an ID, latest or verified) and "repository" may be named. With test=True it tells which
# restore point it would take, and starts nothing.
{%- set request = pillar.get('drill', {}) %}
{%- set plan = salt['saltutil.runner']('openhim_dr.drill_plan', kwarg=request) %}
{%- if plan.refusals %}
{%- for reason in plan.refusals %}
{{ ('Refused: ' ~ reason) | json }}:
  test.fail_without_changes: []
{% endfor %}
{%- else %}

A drill is passed on {{ plan.host }}:
  salt.state:
    - tgt: {{ plan.host }}
    - sls: drill.held
    - pillar: {{ {'drill': request} | json }}
    - failhard: true
{%- endif %}
