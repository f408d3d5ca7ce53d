# The active site admits clients only while its witness renews the lease. After all that listens:
# the ports of OpenHIM's live channels are known then, and the users whose traffic it judges exist.
{%- if (pillar['openhim'].get('lease') or {}).get('enabled') and salt['openhim_lease.has_task']() %}
include:
  - openhim.checked
  - certificates

nftables is there for the lease:
  pkg.installed:
    - name: nftables
    - require:
      - openhim: the pillar is allowed

the lease is renewed:
  openhim_lease.running:
    - require:
      - pkg: nftables is there for the lease
      - sls: certificates.{{ pillar['openhim']['certificates']['method'] }}
{%- endif %}
