# What the host that signs certificates may sign: for servers and members, never another authority.
x509_signing_policies:
  openhim:
    - minions: '*'
    - signing_private_key: /etc/openhim-ca/ca.key
    - signing_cert: /etc/openhim-ca/ca.crt
    - basicConstraints: critical CA:false
    - keyUsage: critical digitalSignature, keyEncipherment
    - extendedKeyUsage: serverAuth, clientAuth
    - subjectKeyIdentifier: hash
    - authorityKeyIdentifier: keyid:always
