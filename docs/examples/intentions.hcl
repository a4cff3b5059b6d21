# Who may call api: purlin config write intentions.hcl
Kind = "service-intentions"
Name = "api"

Sources = [
  {
    Name        = "web"
    Action      = "allow"
    Description = "the shop front"
  },
  {
    # Permissions need a declared protocol: see service-defaults.hcl.
    Name = "reports"
    Permissions = [
      {
        Action = "allow"
        HTTP {
          PathPrefix = "/v1/orders"
          Methods    = ["GET"]
          Header     = [{ Name = "x-tenant", Present = true }]
        }
      },
      {
        Action = "deny"
        HTTP { PathPrefix = "/" }
      }
    ]
  },
  {
    Name   = "*"
    Action = "deny"
  }
]
