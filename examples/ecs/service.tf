# The same as service.yaml in Terraform, with the container of entrypoint.json: the volume, the task and the service.
# Network, cluster and roles are yours.

variable "cluster" { type = string }
variable "vpc" { type = string }
variable "subnets" { type = list(string) }
variable "task_security_group" { type = string }
variable "efs_security_group" { type = string }
variable "execution_role_arn" { type = string }
variable "task_role_arn" { type = string }

resource "aws_efs_file_system" "site" {
  encrypted       = true
  throughput_mode = "elastic"
}

resource "aws_efs_mount_target" "site" {
  for_each        = toset(var.subnets)
  file_system_id  = aws_efs_file_system.site.id
  subnet_id       = each.value
  security_groups = [var.efs_security_group]
}

# Every file belongs to this user.
resource "aws_efs_access_point" "site" {
  file_system_id = aws_efs_file_system.site.id
  posix_user {
    uid = 33
    gid = 33
  }
  root_directory {
    path = "/site"
    creation_info {
      owner_uid   = 33
      owner_gid   = 33
      permissions = "0755"
    }
  }
}

resource "aws_ecs_task_definition" "shop" {
  family                   = "shop"
  network_mode             = "awsvpc"
  requires_compatibilities = ["FARGATE"]
  cpu                      = 256
  memory                   = 512
  execution_role_arn       = var.execution_role_arn
  task_role_arn            = var.task_role_arn
  container_definitions    = jsonencode(jsondecode(file("entrypoint.json")).containerDefinitions)

  volume {
    name = "site"
    efs_volume_configuration {
      file_system_id     = aws_efs_file_system.site.id
      transit_encryption = "ENABLED"
      authorization_config {
        access_point_id = aws_efs_access_point.site.id
        iam             = "ENABLED"
      }
    }
  }
}

resource "aws_lb" "shop" {
  load_balancer_type = "network"
  internal           = true
  subnets            = var.subnets
}

resource "aws_lb_target_group" "shop" {
  vpc_id      = var.vpc
  target_type = "ip"
  protocol    = "TCP"
  port        = 80
  # With true, nginx needs `listen 80 proxy_protocol`, and VOLSEED_APP_CHECK is tcp:80 (service.yaml).
  proxy_protocol_v2    = false
  deregistration_delay = 30

  # Not the default TCP check: it passes as soon as volseed listens.
  health_check {
    protocol            = "HTTP"
    path                = "/readyz"
    interval            = 10
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }
}

resource "aws_lb_listener" "shop" {
  load_balancer_arn = aws_lb.shop.arn
  protocol          = "TCP"
  port              = 80
  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.shop.arn
  }
}

resource "aws_ecs_service" "shop" {
  name             = "shop"
  cluster          = var.cluster
  task_definition  = aws_ecs_task_definition.shop.arn
  launch_type      = "FARGATE"
  platform_version = "1.4.0"
  desired_count    = 3
  # Longer than the first seed.
  health_check_grace_period_seconds = 1800

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }
  network_configuration {
    subnets         = var.subnets
    security_groups = [var.task_security_group]
  }
  load_balancer {
    target_group_arn = aws_lb_target_group.shop.arn
    container_name   = "web"
    container_port   = 80
  }
  depends_on = [aws_lb_listener.shop, aws_efs_mount_target.site]
}
