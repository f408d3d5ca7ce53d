# All hosts run this at once: one initiates with all declared members, the others wait for it.
{%- for instance in salt['mongodb_replset.instances']() %}
the set {{ instance.set }} is initiated:
  mongodb_replset.initiated:
    - name: {{ instance.set }}
    - require:
      - service: mongod of {{ instance.set }} runs

{%- for user, values in pillar['openhim']['mongodb'].get('users', {}).items() | sort(attribute='1.operator', reverse=true) %}

the user {{ user }} exists in {{ instance.set }}:
  mongodb_replset.user_present:
    - name: {{ user }}
    - set: {{ instance.set }}
    - require:
      - mongodb_replset: the set {{ instance.set }} is initiated
    - require_in:
      - mongodb_replset: the set {{ instance.set }} is configured
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
