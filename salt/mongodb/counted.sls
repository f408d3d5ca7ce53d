# The configuration of each set becomes the declared one: who was given up has no vote any more, and no
# write waits for it. Its primary stays, or goes by MongoDB's own rules; only orch.core uses it.
include:
  - openhim.checked

{%- for instance in salt['mongodb_replset.instances']() %}

the set {{ instance.set }} counts on those who are left:
  mongodb_replset.configured:
    - name: {{ instance.set }}
    - require:
      - openhim: the pillar is allowed
{%- endfor %}
