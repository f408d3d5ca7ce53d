# The primary of each set hands over to the member that the pillar prefers now; only the moves of
# salt/orch use it.
include:
  - openhim.checked

{%- for instance in salt['mongodb_replset.instances']() %}

the primary of {{ instance.set }} is the preferred one:
  mongodb_replset.handed_over:
    - name: {{ instance.set }}
    - require:
      - openhim: the pillar is allowed
{%- endfor %}
