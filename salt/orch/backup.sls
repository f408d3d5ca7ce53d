# A restore point now: taken, and copied to where it is pulled.
#
#   salt-run state.orchestrate orch.backup pillar='{"backup": {"stack": "<name>", "reason": "<why>"}}'
{%- set request = pillar.get('backup', {}) %}
{%- set plan = salt['saltutil.runner']('openhim_dr.backup_plan', kwarg={'stack': request.get('stack', '')}) %}

{%- if plan.refusals %}
{%- for reason in plan.refusals %}
{{ ('Refused: ' ~ reason) | json }}:
  test.fail_without_changes: []
{% endfor %}
{%- else %}
{%- for name in plan.first %}

A restore point is taken into {{ name }}:
  salt.function:
    - name: openhim_backup.take
    - tgt: {{ plan.taken_by }}
    - kwarg: {{ {'repository': name, 'why': request.get('reason', 'asked for')} | json }}
    - expect_minions: true
    - failhard: true
{%- endfor %}

{%- for name, host in plan.copies.items() %}

It is pulled into {{ name }}:
  salt.function:
    - name: openhim_backup.copy
    - tgt: {{ host }}
    - arg: [{{ name }}]
    - expect_minions: true
    - failhard: true
{%- endfor %}
{%- endif %}
