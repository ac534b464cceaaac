# The images of a release, for two architectures: `make images`. Compose builds the same targets for this machine.

variable "REGISTRY" {
  description = "Registry and namespace, such as registry.example.com/acme; empty for names without a registry."
  default     = ""
}

variable "TAGS" {
  description = "Tags of each image, separated by spaces."
  default     = "local"
}

variable "REVISION" {
  description = "Commit that the images are built from."
  default     = ""
}

variable "SOURCE" {
  description = "URL of the repository."
  default     = ""
}

variable "CREATED" {
  description = "Time of the commit, in RFC 3339."
  default     = ""
}

group "default" {
  targets = ["runtime", "console", "testbed"]
}

target "image" {
  name = stage
  matrix = {
    stage = ["runtime", "console", "testbed"]
  }
  target    = stage
  platforms = ["linux/amd64", "linux/arm64"]
  tags = [
    for tag in split(" ", TAGS) :
    join("/", compact([REGISTRY, stage == "runtime" ? "gatehouse:${tag}" : "gatehouse-${stage}:${tag}"]))
  ]
  args = {
    REVISION = REVISION
  }
  labels = {
    "org.opencontainers.image.created"  = CREATED != "" ? CREATED : null
    "org.opencontainers.image.licenses" = "Apache-2.0"
    "org.opencontainers.image.revision" = REVISION
    "org.opencontainers.image.source"   = SOURCE != "" ? SOURCE : null
  }
  attest = ["type=sbom", "type=provenance,mode=max"]
}
