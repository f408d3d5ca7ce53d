# Closed before anything listens.
{%- if pillar['openhim'].get('firewall', {}).get('enabled') %}
nftables is installed:
  pkg.installed:
    - name: nftables
    - require:
      - openhim: the pillar is allowed

only declared ports are open:
  openhim_firewall.applied:
    - require:
      - pkg: nftables is installed
{%- endif %}
