//! The log's lines and the alerts. English is what they say of themselves.

use super::Lang;
use crate::protocol::{Alert, LogEntry, Remedy};
use crate::ui::text;

impl Lang {
    pub fn log_entry(self, entry: &LogEntry) -> String {
        match self {
            Lang::English => entry.to_string(),
            Lang::Chinese => chinese_entry(entry),
        }
    }

    /// What is wrong, and the remedy.
    pub fn alert(self, alert: &Alert) -> String {
        match self {
            Lang::English => alert.to_string(),
            Lang::Chinese => chinese_alert(alert),
        }
    }
}

fn chinese_entry(entry: &LogEntry) -> String {
    match entry {
        LogEntry::Started { pid } => format!("运行进程已启动，进程号 {pid}"),
        LogEntry::Resumed { step, checkpoint } => format!("从 {checkpoint} 恢复，接第 {step} 步"),
        LogEntry::Skipped {
            step,
            loss,
            in_a_row,
        } => format!(
            "跳过第 {step} 步：损失或梯度不是有限数（损失 {}，连续 {in_a_row} 次）",
            loss.0
        ),
        LogEntry::Evaluated {
            step,
            loss,
            seconds,
        } => format!("第 {step} 步留出损失 {:.4}（{seconds:.1} 秒）", loss.0),
        LogEntry::Saved { checkpoint } => format!("检查点 {checkpoint}"),
        LogEntry::Exported { format, path } => format!("已导出 {format} 到 {path}"),
        LogEntry::Changed {
            source,
            key,
            old,
            new,
            applies,
        } => {
            let when = match applies.as_str() {
                "live" => "实时",
                "checkpoint" => "下个检查点",
                _ => "需重启",
            };
            format!("{source}：{key} {old} -> {new}（{when}）")
        }
        LogEntry::Broken { source, error } => format!("{source}：{error}（保留旧值）"),
        // The sender in the form that the log pane leaves out for one's own commands.
        LogEntry::Answered {
            sender,
            command,
            message,
        } => format!("{command}：{message} ({sender})"),
        LogEntry::Alert { alert } => chinese_alert(alert),
        LogEntry::Finished { steps } => format!("完成，共 {steps} 步"),
        LogEntry::Said { text } => text.clone(),
    }
}

fn chinese_alert(alert: &Alert) -> String {
    let what = match alert {
        Alert::NonFinite { in_a_row, .. } => {
            format!("损失或梯度不是有限数（连续 {in_a_row} 次）")
        }
        Alert::Spike { loss, usual, .. } => format!("损失突增：{loss:.3}，平时 {usual:.3}"),
        Alert::Oscillation { low, high, .. } => format!("损失在 {low:.3} 与 {high:.3} 之间振荡"),
        Alert::Plateau { steps, loss, .. } => format!("损失已有 {steps} 步停在 {loss:.3}"),
        Alert::Overfitting { eval, best, .. } => {
            format!("训练损失下降而留出损失上升（{best:.3} 到 {eval:.3}）")
        }
        Alert::GpuMemory { index, percent, .. } => format!("GPU {index}：显存已用 {percent} %"),
        Alert::DiskLow { bytes, .. } => format!("磁盘只剩 {}", text::bytes(*bytes)),
        Alert::Temperature { index, celsius, .. } => format!("GPU {index} 温度 {celsius} 度"),
    };
    format!("{what}：{}", chinese_remedy(alert.remedy()))
}

fn chinese_remedy(remedy: &Remedy) -> String {
    match remedy {
        Remedy::Set { key, value } => format!("试试 {key} {value}"),
        Remedy::RaiseOrStop { learning_rate } => {
            format!("试试 learning_rate {learning_rate} 或更高的 lora_rank，或就此停止")
        }
        Remedy::StopAndUse { step } => {
            format!("停止并使用第 {step} 步附近的检查点；下次减少 epochs 或增大 lora_dropout")
        }
        Remedy::SmallerBatch {
            batch,
            accumulation,
        } => {
            format!("以 batch_size {batch} 和 gradient_accumulation_steps {accumulation} 重新开始")
        }
        Remedy::Restart { key, value } => format!("以 {key} {value} 重新开始"),
        Remedy::FreeDisk => "腾出空间，或删除旧检查点".into(),
        Remedy::Cool => "检查风扇与通风，或用 nvidia-smi -pl 调低功率上限".into(),
    }
}
