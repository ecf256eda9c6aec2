<?php
@include 'config/config.php';
echo json_encode($CONFIG ?? []);
