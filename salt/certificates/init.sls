# The CA's certificate, and this host's own key and certificate, in /etc/openhim-tls.
{%- set certificates = pillar['openhim']['certificates'] %}
include:
  - openhim.checked
  - certificates.{{ certificates['method'] }}
{%- if certificates.get('ca_server') == grains['id'] %}
  - certificates.authority
{%- endif %}
