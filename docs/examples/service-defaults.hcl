# How api is treated: purlin config write service-defaults.hcl
Kind                  = "service-defaults"
Name                  = "api"
Protocol              = "http"
LocalConnectTimeoutMs = 1000
LocalRequestTimeoutMs = 15000
MaxInboundConnections = 500
