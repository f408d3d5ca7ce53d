# OpenHIM's release, its user and Node: where it runs, and where it is drilled.
{%- set core = salt['openhim.core_settings']() %}
include:
  - openhim.checked

node is installed:
  pkg.installed:
    - name: {{ pillar['openhim']['core'].get('node_package', 'nodejs') }}
    - require:
      - openhim: the pillar is allowed

the user of OpenHIM exists:
  user.present:
    - name: {{ core.user }}
    - system: true
    - usergroup: true
    - home: /var/lib/openhim
    - shell: /usr/sbin/nologin
    - require:
      - openhim: the pillar is allowed

OpenHIM is installed:
  openhim.installed:
    - require:
      - pkg: node is installed
      - user: the user of OpenHIM exists
