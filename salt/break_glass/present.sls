# An account for the emergency, for a time; whoever holds the key reads its password. On a core host
# at the active site (groups), or on a host with a member (roles):
#   salt north-core state.apply break_glass.present pillar='{"break_glass": {"name": "ada@example.org",
#     "by": "Ben", "reason": "orders are stuck", "valid_for": 14400, "groups": ["admin"]}}'
{%- set request = pillar.get('break_glass', {}) %}
include:
  - openhim.checked

an account for the emergency is open:
  openhim_break_glass.present:
{%- for key in ['name', 'by', 'reason', 'valid_for'] %}
    - {{ key }}: {{ request.get(key, '') | json }}
{%- endfor %}
{%- for key in ['groups', 'roles', 'set', 'recipient_key'] %}
{%- if key in request %}
    - {{ key }}: {{ request[key] | json }}
{%- endif %}
{%- endfor %}
    - require:
      - openhim: the pillar is allowed
