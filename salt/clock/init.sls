# Clocks agree: tokens, certificates, oplog times and the measured RPO depend on it.
{%- set clock = pillar['openhim'].get('clock', {}) %}
{%- if clock.get('servers') %}
chrony is installed:
  pkg.installed:
    - name: chrony
    - require:
      - openhim: the pillar is allowed

chrony asks the declared servers:
  openhim_host.clock_configured:
    - require:
      - pkg: chrony is installed

chrony runs:
  service.running:
    - name: chrony
    - enable: true
    - watch:
      - openhim_host: chrony asks the declared servers

the clock agrees:
  openhim_host.clock_synchronised:
    - max_offset_ms: {{ clock.get('max_offset_ms', 500) }}
    - require:
      - service: chrony runs
{%- endif %}
