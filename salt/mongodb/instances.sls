{%- set tls = pillar['openhim']['mongodb'].get('tls', false) %}
the group of mongod exists:
  group.present:
    - name: mongodb
    - system: true
    - require:
      - openhim: the pillar is allowed

the user of mongod exists:
  user.present:
    - name: mongodb
    - gid: mongodb
    - system: true
    - home: /var/lib/mongodb
    - createhome: false
    - shell: /usr/sbin/nologin
    - require:
      - group: the group of mongod exists
{%- if tls and pillar['openhim']['certificates']['method'] == 'pillar' %}
    - require_in:   # mongod's file is among them
      - openhim_host: the certificates are in place
{%- endif %}

{%- for folder, mode in [('/etc/mongod', '0755'), ('/var/lib/mongodb', '0750'), ('/var/log/mongodb', '0750')] %}

{{ folder }} exists:
  file.directory:
    - name: {{ folder }}
    - user: mongodb
    - group: mongodb
    - mode: {{ mode | json }}
    - require:
      - user: the user of mongod exists
{%- endfor %}

the members share a key:
  file.managed:
    - name: /etc/mongod/keyfile
    - contents_pillar: openhim:secrets:mongodb_keyfile
    - user: mongodb
    - group: mongodb
    - mode: '0400'
    - show_changes: false
    - require:
      - file: /etc/mongod exists

{%- if tls %}

mongod has its certificate:
  openhim_host.combined_pem:
    - name: /etc/openhim-tls/mongodb.pem
    - user: mongodb
    - group: mongodb
    - require:
      - user: the user of mongod exists
      - sls: certificates.{{ pillar['openhim']['certificates']['method'] }}
{%- endif %}

{%- for instance in salt['mongodb_replset.instances']() %}

mongod of {{ instance.set }} has a data folder:
  file.directory:
    - name: {{ instance.data }}
    - user: mongodb
    - group: mongodb
    - mode: '0700'
    - require:
      - file: /var/lib/mongodb exists

mongod of {{ instance.set }} is configured:
  file.managed:
    - name: {{ instance.config }}
    - contents: {{ salt['mongodb_replset.mongod_config'](instance.set) | yaml(false) | json }}
    - user: mongodb
    - group: mongodb
    - mode: '0640'
    - require:
      - file: /etc/mongod exists

mongod of {{ instance.set }} has a unit:
  file.managed:
    - name: /etc/systemd/system/{{ instance.unit }}
    - source: salt://mongodb/files/mongod.service
    - template: jinja
    - context: {{ {'instance': instance} | json }}
    - mode: '0644'

mongod of {{ instance.set }} runs:
  service.running:
    - name: {{ instance.unit }}
    - enable: true
    - require:
      - mongod is installed
{%- if pillar['openhim'].get('firewall', {}).get('enabled') %}
      - openhim_firewall: only declared ports are open
{%- endif %}
      - file: mongod of {{ instance.set }} has a data folder
      - file: mongod of {{ instance.set }} has a unit
      - file: mongod of {{ instance.set }} is configured
      - file: the members share a key
      - file: /var/log/mongodb exists
{%- if tls %}
      - openhim_host: mongod has its certificate
{%- endif %}

# Not a plain restart: all hosts run this at once, and the set must keep its majority.
mongod of {{ instance.set }} has what is on its disk:
  mongodb_replset.up_to_date:
    - name: {{ instance.set }}
    - require:
      - service: mongod of {{ instance.set }} runs
    - watch:   # in test mode these say what would change
      - file: mongod of {{ instance.set }} is configured
      - file: mongod of {{ instance.set }} has a unit
      - file: the members share a key
{%- if tls %}
      - openhim_host: mongod has its certificate
{%- endif %}
{%- endfor %}

logrotate is installed:
  pkg.installed:
    - name: logrotate
    - require:
      - openhim: the pillar is allowed

mongod's logs are rotated:
  file.managed:
    - name: /etc/logrotate.d/openhim-mongod
    - source: salt://mongodb/files/mongod.logrotate
    - mode: '0644'
    - require:
      - pkg: logrotate is installed
