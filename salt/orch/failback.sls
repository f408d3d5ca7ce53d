# OpenHIM moves back to a site that was given up and has rejoined since, and nothing is lost.
#
#   salt-run state.orchestrate orch.failback pillar='{"failback": {"to_site": "north",
#     "confirm": "<the stack's name>", "declared_by": "<who>", "reason": "<why>"}}'
#
# With test=True it tells what it would do and changes nothing. Run again after a crash, it goes on.
{%- set verb = 'failback' %}
{% include 'orch/move.jinja' with context %}
