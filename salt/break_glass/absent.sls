# An account for the emergency is removed before its time. Takes name, by and reason.
{%- set request = pillar.get('break_glass', {}) %}
there is no such account for the emergency:
  openhim_break_glass.absent:
    - name: {{ request.get('name', '') | json }}
    - by: {{ request.get('by', '') | json }}
    - reason: {{ request.get('reason', '') | json }}
