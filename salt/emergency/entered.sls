# Only critical channels work; the others are remembered. On the core host at the active site:
#   salt north-core state.apply emergency.entered pillar='{"emergency": {"by": "Ada",
#     "reason": "the uplink carries a tenth of what it should"}}'
{%- set request = pillar.get('emergency', {}) %}
include:
  - openhim.checked

only critical channels are on:
  openhim_emergency.entered:
    - by: {{ request.get('by', '') | json }}
    - reason: {{ request.get('reason', '') | json }}
    - require:
      - openhim: the pillar is allowed

{%- if pillar['openhim'].get('firewall', {}).get('enabled') %}

only the ports of the critical channels are open:
  openhim_firewall.applied:
    - require:
      - openhim_emergency: only critical channels are on
{%- endif %}
