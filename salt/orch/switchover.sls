# OpenHIM moves to another site in order, and nothing is lost.
#
#   salt-run state.orchestrate orch.switchover pillar='{"switchover": {"to_site": "south",
#     "confirm": "<the stack's name>", "declared_by": "<who>", "reason": "<why>"}}'
#
# With test=True it tells what it would do and changes nothing. Run again after a crash, it goes on.
{%- set verb = 'switchover' %}
{% include 'orch/move.jinja' with context %}
