# The declared hosts find each other without DNS.
{%- for entry in salt['openhim_host.hosts_entries']() %}
{{ entry.address }} is known by name:
  host.only:
    - name: {{ entry.address }}
    - hostnames: {{ entry.names | json }}
    - require:
      - openhim: the pillar is allowed
{%- endfor %}
