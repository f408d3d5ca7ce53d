# Everything is as it was before the emergency. Takes the same pillar as emergency.entered.
{%- set request = pillar.get('emergency', {}) %}
include:
  - openhim.checked

the channels are as they were before the emergency:
  openhim_emergency.left:
    - by: {{ request.get('by', '') | json }}
    - reason: {{ request.get('reason', '') | json }}
    - require:
      - openhim: the pillar is allowed

{%- if pillar['openhim'].get('firewall', {}).get('enabled') %}

the ports of the live channels are open again:
  openhim_firewall.applied:
    - require:
      - openhim_emergency: the channels are as they were before the emergency
{%- endif %}
