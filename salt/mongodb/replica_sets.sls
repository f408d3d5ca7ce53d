# All hosts run this at once: one initiates with all declared members, the others wait for it.
{%- set users = pillar['openhim']['mongodb'].get('users', {}) %}
{%- for instance in salt['mongodb_replset.instances']() %}
the set {{ instance.set }} is initiated:
  mongodb_replset.initiated:
    - name: {{ instance.set }}
    - require:
      - mongodb_replset: mongod of {{ instance.set }} has what is on its disk

{#- The operator comes first: it is let in by the localhost exception, and makes the others. #}
{%- for operators in [true, false] %}
{%- for user in users if users[user].get('operator', false) == operators %}

the user {{ user }} exists in {{ instance.set }}:
  mongodb_replset.user_present:
    - name: {{ user }}
    - set: {{ instance.set }}
    - require:
      - mongodb_replset: the set {{ instance.set }} is initiated
    - require_in:
      - mongodb_replset: the set {{ instance.set }} is configured
{%- endfor %}
{%- endfor %}

the set {{ instance.set }} is configured:
  mongodb_replset.configured:
    - name: {{ instance.set }}
    - require:
      - mongodb_replset: the set {{ instance.set }} is initiated

the set {{ instance.set }} is healthy:
  mongodb_replset.healthy:
    - name: {{ instance.set }}
    - require:
      - mongodb_replset: the set {{ instance.set }} is configured
{%- endfor %}

# It looks at every set of this host.
no emergency account of MongoDB outlives its time:
  openhim_break_glass.kept_to_time:
    - require:
{%- for instance in salt['mongodb_replset.instances']() %}
      - mongodb_replset: the set {{ instance.set }} is healthy
{%- endfor %}
