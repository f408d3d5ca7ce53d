# OpenHIM core: installed on every core host, running where the active site is. Elsewhere it is kept
# ready and stopped, so that a failover only has to start it.
{%- set core = salt['openhim.core_settings']() %}
include:
  - openhim.checked
  - openhim.release
  - certificates
  - firewall

OpenHIM is configured:
  openhim.configured:
    - require:
      - openhim: OpenHIM is installed
      - sls: certificates.{{ pillar['openhim']['certificates']['method'] }}

OpenHIM has a unit:
  file.managed:
    - name: /etc/systemd/system/{{ core.unit }}
    - source: salt://openhim/files/openhim-core.service
    - template: jinja
    - context: {{ {'core': core} | json }}
    - mode: '0644'
    - require:
      - user: the user of OpenHIM exists

{%- if core.active %}

OpenHIM's databases take writes:
  openhim.database_writable:
    - timeout: 300
    - require:
      - openhim: OpenHIM is configured

OpenHIM runs:
  service.running:
    - name: {{ core.unit }}
    - enable: true
    - require:
      - openhim: OpenHIM's databases take writes
{%- if pillar['openhim'].get('firewall', {}).get('enabled') %}
      - openhim_firewall: only declared ports are open
{%- endif %}
    - watch:
      - openhim: OpenHIM is installed
      - openhim: OpenHIM is configured
      - file: OpenHIM has a unit

OpenHIM's administrator has the declared password:
  openhim.administrator_present:
    - require:
      - service: OpenHIM runs

OpenHIM holds the declared objects:
  openhim.objects_present:
    - require:
      - openhim: OpenHIM's administrator has the declared password

OpenHIM can be tried with a synthetic transaction:
  openhim.synthetic_present:
    - require:
      - openhim: OpenHIM's administrator has the declared password

OpenHIM is healthy:
  openhim.healthy:
    - require:
      - openhim: OpenHIM holds the declared objects
      - openhim: OpenHIM can be tried with a synthetic transaction

no emergency account of OpenHIM outlives its time:
  openhim_break_glass.kept_to_time:
    - require:
      - openhim: OpenHIM is healthy

{%- if pillar['openhim'].get('firewall', {}).get('enabled') %}

the ports of the live channels are open:
  openhim_firewall.applied:
    - require:
      - openhim: OpenHIM is healthy
{%- endif %}

{%- else %}

OpenHIM is kept ready and stopped:
  service.dead:
    - name: {{ core.unit }}
    - enable: false
    - require:
      - openhim: OpenHIM is configured
      - file: OpenHIM has a unit
{%- endif %}
