# How clients are led to another site (docs/topics/cut-over.md). top.sls gives it to nobody until the
# name server takes updates that are signed with the key.
openhim:
  cut_over:
    dns:
      name: him.example.org        # what clients are configured with
      zone: example.org
      server: 192.0.2.53           # the zone's primary server, at no site that is lost with OpenHIM
      ttl: 60                      # clients keep the old place so long
      key: {name: openhim-cut-over, algorithm: hmac-sha256, secret: dns_update}
      addresses:                   # where clients reach OpenHIM
        north: [192.0.2.21, "2001:db8:1::21"]
        south: [198.51.100.21]
    # or, instead of dns, programs of your own, which run on the master:
    # command:
    #   run:
    #     north: [/usr/local/sbin/lead-clients, north]
    #     south: [/usr/local/sbin/lead-clients, south]
    #   points_to: [/usr/local/sbin/where-clients-go]
