# From MongoDB's package repository. The unit that the package brings is masked: every set has a
# unit of its own.
{%- set mongodb = pillar['openhim']['mongodb'] %}
{%- set install = mongodb['install'] %}
{%- set armored = install.get('key') and '.asc' not in install['repository'] %}
{%- if armored %}
# A key whose place (signed-by) does not end in .asc is taken out of its armor by Salt, with gpg.
gpg is installed:
  pkg.installed:
    - name: gnupg
    - require:
      - openhim: the pillar is allowed
    - require_in:
      - pkgrepo: MongoDB's package repository is known
{%- endif %}

MongoDB's package repository is known:
  pkgrepo.managed:
    - name: {{ install['repository'] }}
    - file: /etc/apt/sources.list.d/mongodb.list
{%- if 'trusted=yes' in install['repository'] %}
    - trusted: true   # Salt forgets this option of the line when it compares
{%- endif %}
{%- if install.get('key') %}
    - key_url: {{ install['key'] }}
    - aptkey: false
{%- endif %}
    - require:
      - openhim: the pillar is allowed

mongod is installed:
  pkg.installed:
    - pkgs:
      - {{ install.get('package', 'mongodb-org-server') }}: {{ mongodb['version'] | json }}
    - require:
      - pkgrepo: MongoDB's package repository is known

the package's own unit does not run:
  service.masked:
    - name: mongod
    - require:
      - pkg: mongod is installed
