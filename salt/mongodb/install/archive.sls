# From MongoDB's release archive, which holds <name>/bin/mongod.
{%- set mongodb = pillar['openhim']['mongodb'] %}
{%- set folder = '/opt/mongodb/' ~ mongodb['version'] %}
mongod is installed:
  archive.extracted:
    - name: {{ folder }}
    - source: {{ mongodb['install']['source'] }}
    - source_hash: {{ mongodb['install']['source_hash'] }}
    - options: --strip-components=1
    - enforce_toplevel: false
    - if_missing: {{ folder }}/bin/mongod
    - user: root
    - group: root
    - require:
      - openhim: the pillar is allowed
